"""How a model is made to answer: the engines, how answers are drawn and chosen, and many processes at once."""
