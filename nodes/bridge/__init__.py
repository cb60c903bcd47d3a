"""What stands between the nodes and the library, and is no node itself."""
