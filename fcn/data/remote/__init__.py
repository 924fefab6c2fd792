"""Data from elsewhere: public archives, and data sets whose `data_dir` is a URL, fetched once a machine."""
