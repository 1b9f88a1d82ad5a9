"""Small trainable parts on a frozen base."""
