"""The one room that reads what comes from outside: bounded, without pickle, and every failure a `UserError`."""
