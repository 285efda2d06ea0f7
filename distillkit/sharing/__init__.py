"""Between a folder and a Hub repository: validation, push, pull."""
