"""What all of the LLM side speaks: prompts, answers, backends, settings, costs. Knows no llama_cpp.

An item's text on its way to a logit, one name a step:

    suffix     the token ids of the item's text, packed (`messages.pack_ids`); the user's are the prefix
    Prompts    the prompts of one caller, as columns; what one `submit` asks is a question
    Asking     a request's question and the answers that need no LLM (`asking`)
    InFlight   questions without an answer, on this side of the guard and of a process
    Job        a question in the queue of a thread, and what is answered of it
    Waiting    open prompts of all jobs, in the order of the queue (`llama.packing`)
    Packing    those of them that the next decode holds
    Branches   their prefix tree (`llama.tree`), and Rows: its tokens, each once, as llama.cpp takes them
"""
