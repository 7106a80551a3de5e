//go:build race

package client_test

func init() { manyGoroutines = 500 } // the race detector makes each step dear
