"""What every embedding and every prediction of expression is shown beside."""
