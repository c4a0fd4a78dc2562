"""What a speech server feels like to those who listen to it, measured from outside by the client's clock."""
