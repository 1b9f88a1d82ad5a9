"""Choose among measured cuts of every axis by one exact solve."""
