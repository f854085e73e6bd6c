"""What a reader of the paper repeats: each analysis is a table of finished runs, and a figure.

diversity, connectivity  measures on predictions and accuracies, of use without run folders, too
scaling, plane,          accuracy over means of weights
coefficients
members                  the finished runs that are compared, and how their mixtures are measured
figures                  what all figures share
"""
