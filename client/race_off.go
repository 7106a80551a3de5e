//go:build !race

package client

func (*object) begin() {}
func (*object) end()   {}
