package main

import (
	"context"
	"errors"
)

func nriMain(context.Context, []string) error { return errors.New("not built") }
