"""What is called along the way: the base class, the events, and the callbacks that come with DeepTrain."""
