"""Documents from files as people have them: text, PDF, office documents, e-mail, tables, source code and others."""
