"""The contract with users, line by line, against the gateway as a process and fake engines."""
