"""From a picture to arrays: region and object features, and the store that keeps them."""
