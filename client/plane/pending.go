package plane

import (
	"github.com/ipcspace/ipcspace/client/abi"
)

// Whom a transaction has no room to serve it leaves to others, and says Pending:
// who takes the lock next goes on with it first.

func (t *transaction) setPending(flag uint64) {
	if w := t.get(offPending); w&1 != flag {
		t.put(offPending, w, (w>>1+1)<<1|flag)
	}
}

// locked runs f under the lock, as often as it takes, after what an earlier
// transaction left pending is done.
func (o *object) locked(f func(t *transaction) error) error {
	t, err := o.begin()
	if err != nil {
		return err
	}
	err = t.attempt(func() error {
		if err := o.catchUp(t); err != nil {
			return err
		}
		return f(t)
	})
	t.end()
	return err
}

// catchUp goes on with what is pending. The lock is held afterwards. A hostile
// object, or a vast one, takes no more work than a call may have.
func (o *object) catchUp(t *transaction) error {
	for t.get(offPending)&1 != 0 {
		err := o.rest(t)
		if err == errWork {
			break
		}
		if err == errRoom && t.limit > abi.LogEntries {
			// Small steps fit the log cells that there are.
			t.limit = abi.LogEntries * (1 + len(t.more))
			return errAgain
		}
		if err != nil {
			return err
		}
		if t.held == 0 {
			return errRevoked
		}
	}
	t.reset()
	return nil
}

// finish goes on with what the transaction just committed left pending. Should
// another have taken the lock, it does that.
func (o *object) finish(t *transaction) {
	for range tries {
		if t.held == 0 {
			if o.load(offPending)&1 == 0 || t.lock() != nil {
				return
			}
		}
		err := o.catchUp(t)
		t.unlock()
		if err != errAgain && err != errRevoked {
			return
		}
	}
}

// goOn is for a call that was served: what is pending was left by who served it,
// and who may be stopped since. All others that it is for are asleep.
func (o *object) goOn() {
	if o.load(offPending)&1 != 0 {
		_ = o.locked(func(*transaction) error { return nil })
	}
}
