"""Who may connect, and where a message goes. Decisions only: nothing is sent from here."""
