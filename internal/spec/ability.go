package spec

// Ability is one thing that this kernel and this user can or cannot do.
type Ability struct {
	Name     string
	OK       bool
	Detail   string // what was seen
	Needs    string // what its lack costs
	Cure     string // how to get it; of no meaning when OK
	Required bool   // by the default sandbox
}
