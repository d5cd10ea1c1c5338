"""Archives: any number of images through a package, a Parquet row for each, in one process or on a Ray cluster."""
