"""What happens when everything goes wrong at once."""
