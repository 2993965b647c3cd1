"""From a request to the arrays that a CRM takes: the schema, the fields derived from a history, the encoder."""
