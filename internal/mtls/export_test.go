package mtls

// Calls returns what bounds the calls of the presented key.
func (t *Transport) Calls() any { return t.presented.Load().calls }
