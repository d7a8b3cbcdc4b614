"""What tests share: small studies, servers that fail as scripted, processes to be killed."""
