"""The local web page: name the action in a video that is dropped on it, and find moments in a library of footage."""
