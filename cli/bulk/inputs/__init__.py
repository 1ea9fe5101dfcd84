"""What a bulk run reads: files, archives, tables, URLs and object stores."""
