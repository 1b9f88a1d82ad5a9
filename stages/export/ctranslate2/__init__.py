"""The CTranslate2 form: a folder written by its own converter."""
