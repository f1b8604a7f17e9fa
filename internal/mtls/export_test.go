package mtls

// Leaves returns how many leaves the pool remembers.
func (p *Pool) Leaves() int { return len(p.byLeaf) }

// Calls returns what bounds the calls of the presented key.
func (t *Transport) Calls() any { return t.presented.Load().PrivateKey.(*presentedKey).calls }
