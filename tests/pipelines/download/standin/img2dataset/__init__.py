"""The part of img2dataset's interface that our engine uses, for machines that do not have the package."""
