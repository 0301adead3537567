"""Order of the steps: lowest peak of live bytes, proved where that is affordable."""
