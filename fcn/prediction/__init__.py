"""What an exported network says of images, folders and videos."""
