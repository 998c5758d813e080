"""Files that are cut, changed or made up, given to every parser of the project."""
