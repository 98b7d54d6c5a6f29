"""The tests of Portico; they mirror the source tree."""
