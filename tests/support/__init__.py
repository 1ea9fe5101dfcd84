"""What tests share: processes of each part, models, receivers, waiting."""
