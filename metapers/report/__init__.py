"""What people look at: tables, pictures, the page, the summary."""
