"""What is shown to people: plans, profiles, pass histories and costs as rows and as tables.

Each file makes plain rows (dicts that JSON can hold) and lays them out as tables of rich. Reports
read graphs, plans and records; they change nothing and run no models.
"""
