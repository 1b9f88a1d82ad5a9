"""What stages read and write of image classifiers: their folders, how their images are read, data sets of images."""
