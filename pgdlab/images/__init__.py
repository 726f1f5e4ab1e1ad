"""Images: classifiers, figures of sets of images, drawing."""
