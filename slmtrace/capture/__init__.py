"""The contract between the recording side and the analysis side: a directory of files. Standard library only."""
