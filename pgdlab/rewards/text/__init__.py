"""What an image is worth under its prompt: CLIPs and other judges, letters that are read, a server that is asked."""
