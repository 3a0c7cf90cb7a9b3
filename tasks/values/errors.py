"""What is raised when data is not as it should be."""


class DataError(ValueError):
    """A data set is not as it should be; the message names the file or folder and the remedy."""
