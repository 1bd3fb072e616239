"""The production scheduler in virtual time: what would this server do under that load?"""
