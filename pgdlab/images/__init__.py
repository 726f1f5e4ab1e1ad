"""What an image means: classifiers, figures of sets of images, drawing."""
