"""What has been released, run by an engine that speaks OpenAI's protocol."""
