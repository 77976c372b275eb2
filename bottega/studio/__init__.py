"""The web pages: server-rendered, keyboard first, over functions of the workshop and rows of the store."""
