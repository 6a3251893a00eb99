"""Put the events of every source on one clock."""
