"""What models answer to questions in words. Written from left to right or by filling masks, judged, kept word for word."""
