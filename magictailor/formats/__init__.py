"""Files and folders that are read and written."""
