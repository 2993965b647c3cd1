"""What is measured, and how: requests, whom they are put to, the three scenarios, ceilings, and other load."""
