"""The ReAct layer: prompts, the Thought/Action format, conversations, and their tokenisation."""
