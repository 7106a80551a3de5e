package manager

// failpoint is called between the steps of each change of several steps, with
// the step's name. Tests have the manager killed there; nil otherwise.
var failpoint func(step string)

func step(name string) {
	if failpoint != nil {
		failpoint(name)
	}
}
