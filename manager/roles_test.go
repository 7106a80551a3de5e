package manager

import "strconv"

func itoa(n int) string { return strconv.Itoa(n) }

// roles are what a copy of the test binary can do as another process.
var roles = map[string]func(){}
