"""The field's own files: ``images*.pt``, ``labels*.pt``, ``lr*.pt``, read and written."""
